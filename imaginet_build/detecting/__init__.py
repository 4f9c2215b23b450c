"""Looking at single images: what is named on the command line or dropped on the page, and what is said of it."""
