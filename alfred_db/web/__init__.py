"""A page that shows the overview and the tasks in a browser, and changes nothing. Needs the extra `web`."""

from __future__ import annotations
