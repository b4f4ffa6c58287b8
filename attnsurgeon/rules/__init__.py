"""Rules as data: YAML -> RuleFile -> what every rule takes, and why it leaves the rest.

`document` is the only file that imports yaml, `schema` the one description of a rule file (it
validates, it is the JSON Schema, it is the reference); `match` and `cases` only look at sites.
"""
