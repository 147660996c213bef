"""DVC: remotes, paid answers, stale stages, pruning, pinned revisions."""
