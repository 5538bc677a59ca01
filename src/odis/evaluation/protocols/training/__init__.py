"""What the trainings of heads share: steps, schedules, and the state that an interrupted one goes on from."""
