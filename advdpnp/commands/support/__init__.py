"""What several commands share: option types, the console, the choice of models; and the longer work of two commands.

Only `options` and `console` are imported by every command, so these two import no torch.
No command is declared here.
"""
