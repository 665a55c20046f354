"""Which pixels of an upright face are face and hair."""
