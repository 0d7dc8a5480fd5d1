"""What every backend decides alike when it trains a network; nothing here needs a framework."""
