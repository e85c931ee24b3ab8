"""The classes of a synthetic street."""

from typing import NamedTuple

from atrous.types import Color


class Class(NamedTuple):
    name: str
    color: Color
    is_thing: bool = False


CLASSES = (
    Class("sky", (114, 176, 226)),
    Class("building", (122, 110, 118)),
    Class("road", (112, 72, 136)),
    Class("pavement", (226, 140, 196)),
    Class("vegetation", (98, 156, 62)),
    Class("pole", (240, 196, 62)),
    Class("car", (36, 66, 178), is_thing=True),
    Class("person", (222, 52, 62), is_thing=True),
)
SKY, BUILDING, ROAD, PAVEMENT, VEGETATION, POLE, CAR, PERSON = range(len(CLASSES))
