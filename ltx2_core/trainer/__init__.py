"""The trainer of users: own clips to encoded datasets and LoRAs, with previews by the product's pipeline."""
