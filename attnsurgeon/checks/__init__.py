"""An operated network -> does it hold what was promised?"""
