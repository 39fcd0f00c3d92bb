"""The reviewer's web page: reads state, takes in signed decisions, starts nothing, never imports torch."""
