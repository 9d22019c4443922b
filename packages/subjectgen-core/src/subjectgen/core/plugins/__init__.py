"""The plugin host: finds what is installed, survives what is broken, answers for what is missing."""

from subjectgen.core.plugins.host import Plugins
from subjectgen.core.plugins.records import ALLOW, DISABLE, GROUP, Broken, Plugin

__all__ = ["ALLOW", "DISABLE", "GROUP", "Broken", "Plugin", "Plugins"]
