"""From a data set to batches of pixels on the device. DALI is imported only here."""
