"""What calls are given and what files hold: checked, and made complete, before it becomes rows."""
