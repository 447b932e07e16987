"""The usual units, each an exact multiple of its dimension's base unit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Unit:
    """``base value = value * factor + offset``. ``base`` names the dimension, too: units convert within a base."""

    name: str
    base: str
    factor: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)

    def convert(self, value: Fraction, to: Unit) -> Fraction:
        return (value * self.factor + self.offset - to.offset) / to.factor


PERCENT = Unit("%", "%", Fraction(1, 100))

_LENGTHS = {
    "nm nanometer": "1e-9", "um μm micrometer micron": "1e-6", "mm millimeter": "0.001", "cm centimeter": "0.01",
    "dm decimeter": "0.1", "m meter": "1", "km kilometer": "1000", "in inch inches": "0.0254", "ft foot feet": "0.3048",
    "yd yard": "0.9144", "mi mile": "1609.344",
}  # fmt: skip
_OTHERS = {
    "g": {"mg milligram": "0.001", "g gram gm": "1", "kg kilogram kilo": "1000", "t tonne": "1000000",
          "lb pound": "453.59237", "oz ounce": "28.349523125"},
    "s": {"ms millisecond": "0.001", "s sec second": "1", "min minute": "60", "h hr hour": "3600", "day": "86400",
          "week": "604800"},
    "month": {"month": "1", "year yr": "12"},
    "m^2": {"ha hectare": "10000", "acre": "4046.8564224"},
    "m^3": {"ml mL milliliter": "1e-6", "cl cL centiliter": "1e-5", "dl dL deciliter": "1e-4", "l L liter": "0.001",
            "gal gallon": "0.003785411784"},
    "m/s": {"m/s": "1", "km/h kmh kph": "5/18", "mph": "0.44704"},
    "°": {"° deg degree": "1"},
    "USD": {"USD $ dollar buck": "1", "¢ cent": "0.01"}, "EUR": {"EUR € euro": "1"}, "GBP": {"GBP £": "1"},
    "JPY": {"JPY ¥ yen": "1"}, "INR": {"INR ₹ rupee": "1"},
}  # fmt: skip
_TEMPERATURES = {
    "K kelvin": ("1", "0"), "°C C celsius degC centigrade": ("1", "273.15"), "°F F fahrenheit degF": ("5/9", "45967/180"),
}  # fmt: skip


def _table() -> dict[str, Unit]:
    units: dict[str, Unit] = {}

    def add(names: str, base: str, factor: str, offset: str = "0") -> None:
        first, *rest = names.split()
        unit = Unit(first, base, Fraction(factor), Fraction(offset))
        for name in (first, *rest):
            units[name] = unit
            if len(name) > 2 and name.isalpha():
                units[f"{name}s"] = unit
                units[name.replace("meter", "metre").replace("liter", "litre")] = unit
                units[f"{name}s".replace("meter", "metre").replace("liter", "litre")] = unit
        for short in {"lb", "hr", "yr", "kg", "oz"} & {first, *rest}:
            units[f"{short}s"] = unit

    for names, factor in _LENGTHS.items():
        add(names, "m", factor)
        size, all_names = Fraction(factor), [n for n in units if units[n].name == names.split()[0]]
        for power, word in ((2, "square"), (3, "cubic")):
            unit = Unit(f"{names.split()[0]}^{power}", f"m^{power}", size**power)
            for name in all_names:
                short = {"square": "sq", "cubic": "cu"}[word]
                for spelling in (f"{name}^{power}", f"{word} {name}", f"{short} {name}", f"{short}. {name}"):
                    units[spelling] = unit
                if name.isascii() and len(name) <= 2:
                    units[f"{name}{power}"] = unit
    for base, table in _OTHERS.items():
        for names, factor in table.items():
            add(names, base, factor)
    for names, (factor, offset) in _TEMPERATURES.items():
        add(names, "K", factor, offset)
        for name in names.split():
            units[f"degree {name}"] = units[f"degrees {name}"] = units[f"° {name}"] = units[name]
    units |= dict.fromkeys(("%", "percent", "per cent", "pct", "percentage"), PERCENT)
    units["US dollars"] = units["US dollar"] = units["US$"] = units["USD"]
    return units


UNITS = _table()
_LOWER = {name.lower(): unit for name, unit in UNITS.items() if len(name) > 2}
_NAMES = sorted((re.escape(name) for name in UNITS), key=len, reverse=True)
SPELLING = rf"(?:{'|'.join(_NAMES)})(?![\w^°%/])"
"""A pattern of every spelling, longest first. Case is for `unit_named` to judge: m is no M."""

_ASKED = re.compile(
    rf"(?:\bin|\bhow many|\bnumber of|\bunits?:?|\bexpressed in)\s+(?:the\s+|units of\s+)?({SPELLING})", re.IGNORECASE
)


def unit_named(name: str) -> Unit | None:
    """By its exact spelling; long names in any case."""
    name = " ".join(name.split())
    return UNITS.get(name) or _LOWER.get(name.lower())


def asked_unit(question: str) -> Unit | None:
    """The unit that a question asks for ("in cm", "how many minutes", "what percentage"), the last one named."""
    found = [unit for match in _ASKED.finditer(question) if (unit := unit_named(match[1])) is not None]
    if found:
        return found[-1]
    return PERCENT if re.search(r"\(\s*(?:in\s+)?%\s*\)|\bpercent(?:age)?\b", question, re.IGNORECASE) else None
