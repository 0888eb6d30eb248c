"""Every command and script with what it reads from outside."""

from experiments.fuzz import commands_of_results, commands_of_scripts, commands_to_model
from experiments.fuzz.command_kinds import KINDS, Command, Role

__all__ = ["COMMANDS", "KINDS", "Command", "Role"]

COMMANDS = [*commands_to_model.COMMANDS, *commands_of_results.COMMANDS, *commands_of_scripts.COMMANDS]
