"""The hospital's web page: its data, its budget, what was asked, the plan, its predictions. Nothing leaves by it."""
