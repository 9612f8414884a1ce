"""Generated wire types of the Open Inference Protocol and of Stockade, in a private descriptor pool."""
