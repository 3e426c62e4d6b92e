"""The module path under which streaming handlers reach their send function."""
