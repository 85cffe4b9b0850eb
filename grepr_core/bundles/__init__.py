"""Bundles: a scoring model on disk; those that ship with the package are folders here.

In come the files of a bundle, or the checkpoints that GRepQ's authors published. Out goes a ``bundle.Bundle`` of
encoders, pristine statistics and regressor, which is saved here as well; or, of what can be known without PyTorch,
``bundle_files.BundleFiles``.
"""

__all__ = ["bundle", "bundle_files", "published_checkpoints"]
