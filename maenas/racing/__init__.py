"""Races between detectors on one's own data: who trains for how long, who stays, who has won."""
