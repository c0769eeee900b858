"""``import proclip`` makes transformers' Auto API know our models, without importing transformers.

transformers has no entry point that it would look at by itself, and our classes can only be made once it is imported,
which takes seconds. So an import hook waits for its two auto modules. As each of them has run, ours are registered,
before anyone sees it: the thread still holds that module's import lock, for which others wait. What is imported then
must not import transformers' auto modules at its top, so that no two threads wait for each other. After both the hook
is gone.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    Loader = object  # importlib.abc imports tempfile and what that needs: half of the time that `import proclip` took

AUTO_CONFIG, AUTO_MODEL = "transformers.models.auto.configuration_auto", "transformers.models.auto.modeling_auto"
REGISTRARS = {AUTO_CONFIG: (".transformers_config", "register_config"), AUTO_MODEL: (".transformers", "register_auto")}
"""By module of transformers: module beside this one, and its function that registers."""


class Hook:
    """Finds the auto modules as others find them, and registers our classes after each has run, once."""

    def __init__(self) -> None:
        self._waiting, self._lock = set(REGISTRARS), Lock()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give of an auto module, its loader wrapped; None for every other module."""
        if fullname not in self._waiting:
            return None
        for finder in list(sys.meta_path):
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _ThenRegister(spec.loader, self)
                return spec
        return None

    def register(self, name: str) -> None:
        """Register what waits for the auto module `name`; a failure is a warning, transformers stays usable."""
        with self._lock:
            if name not in self._waiting:
                return
            self._waiting.remove(name)
            if not self._waiting:
                with suppress(ValueError):
                    sys.meta_path.remove(self)
        module, function = REGISTRARS[name]
        try:
            getattr(import_module(module, __package__), function)()
        except Exception as error:  # whatever it is, it must not break an import of transformers
            warnings.warn(f"proclip could not register with {name}: {error!r}", RuntimeWarning, stacklevel=2)


class _ThenRegister(Loader):
    """A module's own loader; the module itself does not see that it was wrapped."""

    def __init__(self, loader: Loader, hook: Hook) -> None:
        self._loader, self._hook = loader, hook

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._hook.register(module.__name__)


def register_when_imported() -> None:
    """Register with the auto modules that are imported already, and wait for the others."""
    hook = Hook()
    sys.meta_path.insert(0, hook)
    for name in REGISTRARS:
        if name in sys.modules:
            import_module(name)  # returns when a thread that is in the middle of it has finished
            hook.register(name)
