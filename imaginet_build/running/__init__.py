"""What ties the verbs together: work folders, stages, whole runs, and what they say."""
