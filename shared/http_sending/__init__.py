"""What the channels that send by HTTP have in common: connections, bounds on waiting, and the reading of answers."""
