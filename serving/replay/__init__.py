"""What does a running server deliver? A client that replays workloads through OpenAI's API."""
