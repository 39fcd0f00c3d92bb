"""Statistics and the policy: intervals, distances between sets of features, rules to verdict. No torch."""
