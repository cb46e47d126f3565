"""What the published OpenAPI files say, held against the simulator and the tables of the standard."""
