pytest_plugins = ["tests.vm.plugin"]
