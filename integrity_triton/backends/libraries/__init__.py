"""CPU libraries whose objects are not like hashlib's, made so: what records name as ``native``."""
