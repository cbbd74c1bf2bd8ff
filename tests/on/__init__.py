"""The suite on another Debian than this machine's."""
