"""Join a federation, check the site before it takes part, forget a patient."""
