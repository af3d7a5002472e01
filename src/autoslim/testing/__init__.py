"""Contract suites and small networks, for our own tests and for those of third parties."""

from autoslim.testing.search import check_search_method as check_search_method
from autoslim.testing.tasks import check_task as check_task
