"""What the stages work with: config, data set readers, the model, tables, the vector index, notifications."""
