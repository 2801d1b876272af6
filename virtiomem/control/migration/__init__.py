"""The migration of managed devices, as the clients of a control socket ask for it."""
