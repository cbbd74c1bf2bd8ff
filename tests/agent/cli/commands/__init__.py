"""Tests of `agent.cli.commands`."""
