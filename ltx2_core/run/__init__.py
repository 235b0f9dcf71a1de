"""From a request to a clip: the stages of a run, the networks they need, what they return."""
