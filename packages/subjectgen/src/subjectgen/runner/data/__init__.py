"""Looking at data sets before anything is trained on them: which there are, and what is in them."""
