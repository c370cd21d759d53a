"""`meshq scale simulate`: what scaling rules would have done, message by message, on traces of arrivals and service times."""
