"""`attune demo`: the whole service on handwritten digits, in five minutes on two CPU cores.

`digits` writes the images, `processes` runs the service and ends everything, `story` tells what happens,
`picture` draws the last figure.
"""

from service.cli.demo.command import demo

__all__ = ["demo"]
