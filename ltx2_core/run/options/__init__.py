"""The table of options: every setting of a run that a user can choose, declared once.

The command line, the JSON schema of a request and the reference in the docs are generated from it; nodes take
bounds and tooltips from it. No torch is imported here, so that help and shell completion are quick.
"""

from .option import BY_RECIPE, GROUPS, Option
from .sampling import PRESET_NAMES, SAMPLER_NAMES, STAGE2_PRESETS
from .table import BY_NAME, COMMANDS, OPTIONS, RECIPE_ROWS, WITHOUT, by_name, options_of
from .together import CONFLICTS, REQUIREMENTS, check_keywords, check_stage2, check_together

__all__ = [
    "BY_NAME",
    "BY_RECIPE",
    "COMMANDS",
    "CONFLICTS",
    "GROUPS",
    "OPTIONS",
    "PRESET_NAMES",
    "RECIPE_ROWS",
    "REQUIREMENTS",
    "SAMPLER_NAMES",
    "STAGE2_PRESETS",
    "WITHOUT",
    "Option",
    "by_name",
    "check_keywords",
    "check_stage2",
    "check_together",
    "options_of",
]
