"""Errors that teach: the rule, the value got, the way out.

CollegiumError                     a user's mistake or a broken surrounding; the command line exits with 2
├── ConfigError                    a flag, a key or a value of a configuration
├── DataError                      texts that cannot be read or do not suffice
├── BaseModelError                 a base that is unknown, damaged or not supported
├── ExpertError
│   ├── IncompatibleExpert         made for another base, other shapes, unknown fields
│   └── CorruptExpert              truncated, not finite, pickled, wrong checksum
├── LibraryError
│   ├── UnknownName                no expert, router or model of that name
│   ├── NameTaken                  the name exists already, or is not allowed
│   └── NewerFormat                written by a later version
├── RoutingError
│   └── StaleRouter                the library changed since the router was fitted
├── TrainingError                  loss not finite, or diverged
├── TargetError                    a target out of reach, or a feature that fails
└── ResourceError                  disk full, memory exhausted, missing extra
"""


class CollegiumError(Exception):
    """Base of all errors a user can mend."""


class ConfigError(CollegiumError):
    """A flag, key or value of a configuration is wrong."""


class DataError(CollegiumError):
    """Texts cannot be read, or do not suffice."""


class BaseModelError(CollegiumError):
    """A base model is unknown, damaged or not supported."""


class ExpertError(CollegiumError):
    """An expert cannot be used."""


class IncompatibleExpert(ExpertError):
    """An expert does not fit this base."""


class CorruptExpert(ExpertError):
    """An expert's files are damaged or hostile."""


class LibraryError(CollegiumError):
    """A library cannot do what was asked."""


class UnknownName(LibraryError):
    """No expert, router or model has that name."""


class NameTaken(LibraryError):
    """The name exists already or is not allowed."""


class NewerFormat(LibraryError):
    """A library was written by a later version of Collegium."""


class RoutingError(CollegiumError):
    """A router cannot answer."""


class StaleRouter(RoutingError):
    """The library changed since the router was fitted."""


class TrainingError(CollegiumError):
    """A fit stopped because its loss is not finite or diverged."""


class TargetError(CollegiumError):
    """A target cannot be reached, or one of its features fails."""


class ResourceError(CollegiumError):
    """Disk, memory or an optional part is missing."""
