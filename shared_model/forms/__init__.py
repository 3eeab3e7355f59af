"""The forms of the model: what each makes of a patient, how it learns from them, and how it draws a dose."""
