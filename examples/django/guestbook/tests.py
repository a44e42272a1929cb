from django.test import Client, TestCase

from guestbook.models import Entry


class GuestbookTest(TestCase):
    def test_an_entry_is_shown_to_the_next_visitor(self):
        answer = self.client.post("/", {"name": "Ada", "message": "<b>Hello</b>"})
        self.assertRedirects(answer, "/")
        self.assertContains(self.client.get("/"), "&lt;b&gt;Hello&lt;/b&gt;")

    def test_an_empty_entry_is_not_kept(self):
        self.assertContains(self.client.post("/", {"name": "Ada"}), "This field is required")
        self.assertEqual(Entry.objects.count(), 0)

    def test_a_form_of_another_site_is_refused(self):
        answer = Client(enforce_csrf_checks=True).post("/", {"name": "A", "message": "B"})
        self.assertEqual(answer.status_code, 403)
