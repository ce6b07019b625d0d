"""A view: functions of this room in their order, each with its options; what a table of functions in a recipe becomes."""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, make_dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, final, get_type_hints

from torch import Generator, Tensor

from sslkit.contract.checks import Checked
from sslkit.contract.errors import OptionError, did_you_mean
from sslkit.contract.images import ImageSpec
from sslkit.views.color import color_jitter, grayscale, solarize
from sslkit.views.crops import center_crop, horizontal_flip, random_resized_crop, resize, vertical_flip
from sslkit.views.patches import gaussian_blur, random_erasing
from sslkit.views.presets import PRESETS
from sslkit.views.transform import Shape, compose

_FUNCTIONS: tuple[Any, ...] = (
    random_resized_crop,
    resize,
    center_crop,
    horizontal_flip,
    vertical_flip,
    color_jitter,
    grayscale,
    gaussian_blur,
    solarize,
    random_erasing,
)
"""What a view may be made of: one image in, one image out."""

_ALL_OR_NONE = frozenset({"horizontal_flip", "vertical_flip", "grayscale", "solarize"})
"""Functions in which nothing is random except which images are changed."""


@dataclass(frozen=True, kw_only=True)
class FunctionOptions(Checked):
    """The options of one function, checked: the parameters that a recipe may set. There is a subclass for each function."""

    function: ClassVar[Any]

    @property
    def random(self) -> bool:
        """Whether anything is drawn that makes a difference."""
        certain = self.function.__name__ in _ALL_OR_NONE and vars(self)["probability"] in (0.0, 1.0)
        return self.function.random and not certain

    @property
    def needs_color(self) -> bool:
        """Whether it is meaningless for bands, which are not colours."""
        saturation, hue = (vars(self).get(name, 0.0) for name in ("saturation", "hue"))
        return self.function is grayscale or saturation not in (0.0, (1.0, 1.0)) or hue not in (0.0, (0.0, 0.0))


def _as(annotation: Any, value: Any) -> Any:
    """A value as a recipe gives it, so that equal options have equal fingerprints: 128 for a float is 128.0."""
    if annotation is float and type(value) is int:
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _options_of(function: Any) -> type[FunctionOptions]:
    hints, fields = get_type_hints(function), []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and name != "generator":
            required = parameter.default is parameter.empty
            fields.append((name, hints[name], field() if required else field(default=_as(hints[name], parameter.default))))
    members = {"function": staticmethod(function), "__module__": __name__, "__doc__": f"The options of ``{function.__name__}``."}
    name = "".join(word.capitalize() for word in function.__name__.split("_"))
    return make_dataclass(name, fields, bases=(FunctionOptions,), namespace=members, frozen=True, kw_only=True)


OPTIONS: dict[str, type[FunctionOptions]] = {function.__name__: _options_of(function) for function in _FUNCTIONS}
"""The options of each function, by its name."""


@final
@dataclass(frozen=True, init=False, repr=False)
class View:
    """Functions of :mod:`sslkit.views`, applied one after another to a batch of images. Immutable; equal to one of the same functions.

        View(random_resized_crop={"size": 32, "scale": (0.2, 1.0)}, horizontal_flip={})
        View("simclr", size=96, color_jitter={"hue": 0.0}, gaussian_blur=False)

    A preset's functions keep their order, whatever is changed; functions that it lacks come after them.

    Args:
        name: a preset to start from: one of :data:`sslkit.views.presets.PRESETS`.
        size: of the preset's images, in place of its own: the side of a square, or (height, width), in pixels.
        **functions: the options of each function; for those of a preset, only what changes, or False to leave it out.

    Attributes:
        functions: their names, in order.
        options: of each function by its name, defaults included.

    Raises:
        OptionError: there is no such preset, function or option, or a value is not allowed; names ``<function>.<option>``.
    """

    functions: tuple[str, ...]
    options: Mapping[str, FunctionOptions]

    def __init__(
        self,
        name: str | None = None,
        /,
        *,
        size: int | tuple[int, int] | None = None,
        **functions: Mapping[str, Any] | FunctionOptions | Literal[False],
    ) -> None:
        given = {key: vars(options) if isinstance(options, FunctionOptions) else options for key, options in functions.items()}
        table = ({} if name is None else {"name": name}) | ({} if size is None else {"size": size}) | given
        options = {function: _checked(function, entry) for function, entry in functions_of(table).items()}
        object.__setattr__(self, "functions", tuple(options))
        object.__setattr__(self, "options", MappingProxyType(options))
        self._size(_any_images(options))

    def __call__(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Make one view of each image. Everything is computed in float32, and rounded once, at the end.

        Args:
            images: (N, C, H, W) uint8, or float in [0, 1].
            generator: the source of all draws, in the order of the functions; may be None where nothing is ``random``.

        Returns:
            (N, C, height, width) of the same dtype.

        Raises:
            OptionError: there is no generator, or a function cannot take such images.
        """
        if generator is None and self.random:
            raise OptionError("generator", "missing; required", allowed=f"the source of what {', '.join(self.random)} draw")
        generator = generator or Generator(images.device)
        return compose([(options.function, vars(options)) for options in self.options.values()], images, generator)

    @property
    def random(self) -> tuple[str, ...]:
        """The functions that draw something."""
        return tuple(name for name, options in self.options.items() if options.random)

    def image_spec(self, image: ImageSpec) -> ImageSpec:
        """The spec of the views of such images, which differ in size alone."""
        height, width = self._size(Shape(0, image.num_chs, image.height, image.width))
        return image._replace(height=height, width=width)

    def check(self, image: ImageSpec, option: str = "view") -> None:
        """Refuse images that the view cannot be made of.

        Raises:
            OptionError: names ``<option>.<function>``.
        """
        for name, options in self.options.items():
            if image.color is None and options.needs_color:
                fix = "leave it out" if options.function is grayscale else "set saturation = 0 and hue = 0"
                raise OptionError(f"{option}.{name}", "needs colours, and these images have bands", fix=fix)
        try:
            self.image_spec(image)
        except OptionError as error:
            raise OptionError(f"{option}.{error.option}", error.detail) from error

    def _size(self, shape: Shape) -> tuple[int, int]:
        """Height and width of what comes out. Each function draws for no image at all, and so refuses options and images itself."""
        for name, options in self.options.items():
            generator = {"generator": Generator()} if options.function.random else {}
            try:
                shape = options.function.draw(shape, **vars(options), **generator).shape(shape)
            except OptionError as error:
                where = name if error.option == name else f"{name}.{error.option}"  # of the images, not of an option
                raise OptionError(where, error.detail) from error
        return shape.height, shape.width

    def __hash__(self) -> int:
        return hash(tuple(self.options.items()))

    def __repr__(self) -> str:
        return f"View({', '.join(f'{name}={vars(options)}' for name, options in self.options.items())})"

    def __reduce__(self) -> tuple[Any, ...]:  # neither a mapping proxy nor a generated class can be copied as it is
        return _unpickled, ({name: vars(options) for name, options in self.options.items()},)


def functions_of(given: object) -> dict[str, dict[str, Any]]:
    """The functions of a preset, given by its name, or of a table, which may start from a preset: in order, with the options that are set.

    Raises:
        OptionError: there is no such preset or function, or no function at all.
    """
    table = {"name": given} if isinstance(given, str) else given
    if not isinstance(table, Mapping):
        raise OptionError("", "must be a view (a preset's name, or a table of functions)", found=given)
    _refuse_unknown(table)
    name, functions = table.get("name"), dict[str, dict[str, Any]]()
    if "name" in table:
        if not isinstance(name, str) or name not in PRESETS:
            near = did_you_mean(name, PRESETS) if isinstance(name, str) else ""
            raise OptionError("" if isinstance(given, str) else "name", "no such preset", found=name, allowed=PRESETS, fix=near)
        functions = {function: dict(options) for function, options in PRESETS[name].functions.items()}
    if "size" in table:
        sized = [options for options in functions.values() if "size" in options]
        if not sized:
            raise OptionError("size", "is for a preset", found=table["size"], fix="give it to a function: center_crop = { size = 224 }")
        for options in sized:
            options["size"] = table["size"]
    for function, options in table.items():
        if function in ("name", "size"):
            continue
        if options is False and name is not None:
            functions.pop(function, None)
        elif not isinstance(options, Mapping):
            raise OptionError(function, "must be a table of its options", found=options, allowed="{} for the defaults")
        else:
            functions[function] = functions.get(function, {}) | dict(options)
    if not functions:
        fix = "images as they are: { horizontal_flip = { probability = 0 } }"
        raise OptionError("", "is a view without a function", found=given, allowed=OPTIONS, fix=fix)
    return functions


def _refuse_unknown(table: Mapping[str, Any]) -> None:
    for function, meant in table.items():
        if function in ("name", "size", *OPTIONS):
            continue
        if isinstance(meant, str) and (function == "preset" or meant in PRESETS):
            raise OptionError(function, "unknown function", found=meant, fix=f'for a preset write name = "{meant}"')
        near = did_you_mean(function, OPTIONS)
        raise OptionError(function, "unknown function", allowed="" if near else OPTIONS, fix=near)


def _any_images(options: Mapping[str, FunctionOptions]) -> Shape:
    """Images of which nothing is known yet, except how many channels ``random_erasing`` has a value for."""
    value = vars(options["random_erasing"])["value"] if "random_erasing" in options else 0.0
    return Shape(0, len(value) if isinstance(value, tuple) and len(value) > 1 else 3, 4096, 4096)


def views_of(options: object) -> Iterator[tuple[str, View]]:
    """The views among the options of a task, an evaluator or the like, each by the option's name."""
    for each in dataclasses.fields(options) if dataclasses.is_dataclass(options) else ():
        value = getattr(options, each.name)
        if isinstance(value, View):
            yield each.name, value
        elif isinstance(value, tuple | list):
            yield from ((f"{each.name}[{i}]", view) for i, view in enumerate(value) if isinstance(view, View))


def _checked(function: str, options: Mapping[str, Any]) -> FunctionOptions:
    cls = OPTIONS[function]
    fields = {each.name: each for each in dataclasses.fields(cls)}
    for name in options:
        if name not in fields:
            near = did_you_mean(name, fields)
            raise OptionError(f"{function}.{name}", "unknown option", allowed="" if near else fields, fix=near)
    for name, each in fields.items():
        if each.default is dataclasses.MISSING and name not in options:
            raise OptionError(f"{function}.{name}", "missing; required")
    try:
        return cls(**{name: _as(fields[name].type, value) for name, value in options.items()})
    except OptionError as error:
        raise OptionError(f"{function}.{error.option}", error.detail) from error


def _unpickled(functions: Mapping[str, Any]) -> View:
    return View(**functions)
