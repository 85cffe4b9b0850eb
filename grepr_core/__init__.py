"""The method: image decoding, encoders, losses, zero-shot scores, regressor and bundle. Never imports Ray."""
