"""Engines that run attempts: the protocol and the one for this machine."""
