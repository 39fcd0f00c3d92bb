"""The room that measures: parent and candidate on the same latents, by a judge that training never saw."""
