"""Every knob, as one frozen typed tree, and how YAML and the command line become it. Imports no other room."""
