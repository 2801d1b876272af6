from hypothesis import settings

pytest_plugins = ["tests.vm.plugin", "pytester"]

# How long an example takes says nothing on a machine that does other work, too.
settings.register_profile("any time", deadline=None)
settings.load_profile("any time")
