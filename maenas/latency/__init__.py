"""How long a network takes on a device: what is known about devices, what was measured, and what is predicted."""
