"""Real servers for the tests: found, started on free loopback ports, stopped and cleaned up after."""
