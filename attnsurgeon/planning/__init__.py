"""Sites, rules, mechanisms -> what would be cut where, or why not."""
