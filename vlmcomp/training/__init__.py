from vlmcomp.models import quiet_libraries  # noqa: F401
