"""Lines and sentences that advertise, ask for a click or a follow, or belong to the page rather than to the text.

A word does not make an advert: news reports about QR codes, laws about copyright and manuals that say "click the icon at
the top right" use all of them. So the patterns are phrases in the imperative (a plea, a verb and its object within one
sentence) or fixed formulas, in four classes:

- PHRASES go alone, wherever they stand: formulas that a site glues to the text, often without a full stop before them;
- FORMULAS make a sentence an advert: copyright notices, disclaimers, credits, contact lines;
- PLEAS do so unless the sentence tells a story (STORY: reporters, police, victims, he and she, quotations of others);
- LINES are whole lines of navigation and credits.

A line up to max_line_chars goes whole when one of its sentences is an advert; of a longer line only those sentences go.
Lines of code (fenced, indented) stay. Most text never gets as far: each pattern names its anchors, short strings
one of which stands in whatever it matches, so one compiled search for all of them finds the few places that are worth a
closer look, and there only the patterns of that anchor are tried. (All patterns on all sentences of a line: 5 MB/s.)

The patterns were collected from the heads and tails of Chinese news pages, question-and-answer pages and translated
articles, and pruned by reading what they removed; see the test for texts that must stay.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter

from jielong.data import steps
from jielong.data.cleaning.cleaner import Triggers
from jielong.data.cleaning.markdown import code_spans
from jielong.data.cleaning.scan import HEAD, WordSearch
from jielong.data.cleaning.sentences import split_sentences

ROUNDS = 8  # of one line, until nothing more goes
_GAP = r"[^。！？!?\n\\]"
_ACT = r"(?:点赞|点个赞|转发|分享|收藏|评论(?![区栏])|留言|(?<!现)在看(?![上起来到见])|投币|打赏)"
LONGEST_SENTENCE = 200  # what is longer is a page without punctuation; too much would go with the advert
_WRITTEN_LINE_END = re.compile(r"(?<=\\n)")  # a backslash and an n, which a careless crawler made of a line feed

# Each: the anchors, one of which stands in whatever the pattern matches, and the pattern.
PHRASES = (
    ("返回搜狐", r"返回搜狐[，,]?\s*查看更多(?:\s*责任编辑[：:]?(?:\s*[\u4e00-\u9fff]{2,3}(?=\s*$))?)?"),
    (
        "任编辑 责编",
        r"[（(【]?(?:责任编辑|责编)\s*[：:丨|/]\s*(?:[\u4e00-\u9fff]{2,4}(?![\u4e00-\u9fff])(?:[ _]?[A-Za-z]{0,3}[0-9]{1,6})?)?\s*[）)】]?",
    ),
    (
        "声明",
        rf"(?:自动播放\s+腾讯视频\s+v\.qq\.com\s*)?[【\[（(]?(?:(?:特别|郑重|免责|版权)声明[】\]）)]?[：:]?|声明[】\]）)]?[：:])\s*"
        rf"(?:本文|以上|该文|文章|本站|本网|图片|转载|凡|本公众号){_GAP}*[。！？!?]?",
    ),
    ("alt+4", r"正文已结束[，,]您可以按alt\+4进行评论"),
    ("图片描述", r"(?:请?点击)?输入图片描述"),
    ("看大图", r"点击(?:图片)?查看大图"),
    (
        "载附件",
        r"(?:(?:微信图片|QQ图片|图片)?[A-Za-z0-9_.-]{1,60}\.(?:jpe?g|png|gif)\s*)?[（(][0-9.]+ ?[kKmM][bB][，,] ?下载次数: ?[0-9]+[）)]\s*下载附件(?:\s*保存到相册)?",
    ),
    ("画面移动", r"(?:\b00:00\s*)?按住画面移动小窗X?"),
    (
        "用微信扫",
        r"(?:举报\s*[0-9]*\s*)?分享至?\s*用微信扫(?:码|描)?二维码(?:\s*分享至好友和朋友圈)?(?:\s*评论\s*[0-9]+)?",
    ),
    ("步骤阅读", r"步骤阅读(?=\s*$|\s)"),
    (
        "分享到",
        r"分享到[：:](?:\s*(?:QQ空间|QQ好友|新浪微博|腾讯微博|网易微博|人人网|微信好友|微信|微博|朋友圈|豆瓣|开心网))*",
    ),
    (
        "自网络 于网络 源网络 自互联网络 于互联网络",
        r"(?:(?<=[。！？!?；;\s])|^|[（(【])(?:(?:以上|部分|文中|本文|资料|配|实景)[，,]?)?(?:图片?|图文|素材|文章|内容)[，,]?(?:均|皆|部分|整理)?"
        r"(?:来自|来源于?|源于|源自|取自|整理自)于?(?:互联)?网络(?:[。）)】]|(?=\s|$))|[（(](?:图片?|图文|素材|文章)[，,]?(?:来自|来源于?|源于|源自|取自)于?(?:互联)?网络[，,][^（）()\n]{0,30}[）)]",
    ),
    ("原标题", r"^(?:\s*原标题[：:])++\s*"),
)
FORMULAS = (
    (
        "转载 摘编 镜像",
        rf"(?:未经|非经){_GAP}{{0,20}}(?:授权|许可|允许|同意){_GAP}{{0,12}}(?:不得|禁止|请勿|严禁|谢绝){_GAP}{{0,8}}(?:转载|摘编|镜像)",
    ),
    (
        "转载",
        rf"转载(?:时)?(?:请|须|需|务必|必须)(?:务必)?{_GAP}{{0,6}}(?:注明|标明|联系|保留|告知|署名)|转载{_GAP}{{0,6}}请注明",
    ),
    ("转载", r"(?:如需|谢绝|请勿|严禁|商业)转载|欢迎转载[，,]"),
    ("必究", r"(?:违者|侵权)必究"),
    (
        "版权",
        rf"版权(?:均|皆|都)?归{_GAP}{{0,15}}(?:所有|原作者|作者)|版权(?:均|皆|都)?属于?(?:原作者|本站|本网|作者)|^\W*版权所有|"
        r"版权所有[：:！! ©]|版权所有[，,]\s*(?:未经|翻版|侵权|违者|不得|转载|盗版)",
    ),
    ("Reserved reserved ICP 网安备", r"[Aa]ll [Rr]ights [Rr]eserved|ICP[备证]\s*[0-9]|公网安备"),
    (
        "仅代表 只代表 不代表",
        rf"(?:本文|文章|以上|该文|此文){_GAP}{{0,8}}(?:仅|只|不)代表{_GAP}{{0,4}}(?:作者|自媒体|媒体号|企鹅号|大风号){_GAP}{{0,12}}(?:观点|立场)",
    ),
    (
        "不代表",
        rf"不代表(?:本[站网报刊台公媒]|腾讯|新浪|搜狐|网易|百度|头条){_GAP}{{0,16}}(?:观点|立场)|不代表{_GAP}{{0,10}}(?:赞同|认同)其观点",
    ),
    (
        "侵权",
        rf"如{_GAP}{{0,12}}侵权{_GAP}{{0,6}}(?:请|烦请|敬请|务必|麻烦){_GAP}{{0,8}}(?:联系|告知|删除|通知)|侵权(?:请|必|立){_GAP}{{0,6}}(?:联系|删|告知)",
    ),
    ("侵删 权删", r"[侵权]删(?:除)?[。）)\s]*$"),
    (
        "本文为 本文系 本文由 本文是",
        rf"本文(?:为|系|由|是){_GAP}{{0,25}}(?:原创|独家|首发|授权){_GAP}{{0,12}}(?:转载|发布|$|[。！!\s）)])",
    ),
    ("荣誉推出 搜狐", r"荣誉推出|搜狐(?:号系|仅提供)信息"),
    ("供参考", r"^\W*(?:经验|以上|文章|本文)(?:内容|信息|文章)(?:纯属个人观点[，,])?仅供参考(?=[，,。；;！!\s]|$)"),
    (
        "电话 热线 QQ qq 微信 邮箱",
        r"(?:客服|咨询|订购|订票|招商|加盟|售楼|预约|商务合作|广告合作|投稿|爆料|报料|广告)(?:电话|热线|QQ|qq|微信|邮箱)[：:]\s*[0-9A-Za-z@(（]|"
        r"(?:新闻|爆料|报料|广告招商|招商)热线[：:]?\s*[0-9]{3}",
    ),
    (
        "微信 QQ qq V信 加V 加v",
        r"(?:加|添加)(?:我|小编|老师|作者|助理|客服|群主)?的?(?:个人)?(?:微信|QQ|qq|V信|[Vv][Xx]?)(?:号|群|好友)?[：:]?\s*[（(]?[A-Za-z0-9]{5}",
    ),
    (
        "QQ qq 官方群 流群 信群 者群 丝群 习群 家群 友群",
        r"(?:官方|交流|读者|粉丝|学习|玩家|车友)(?:QQ|qq|微信)?群(?:号)?[：:]?\s*[0-9]{5}|(?:QQ|qq)群(?:号)?[：:]?\s*[0-9]{6}",
    ),
    (
        "公众号 公众平台 订阅号",
        r"(?:微信|官方|平台)?(?:公众号|公众平台|订阅号)(?:ID|名称)?[：:]\s*\S|公众号[（(](?:ID|微信号|[A-Za-z])",
    ),
    (
        "回复",
        rf"(?:后台|公众号|微信)?回复(?:关键[字词])?[“「【][^”」】]{{1,12}}[”」】]{_GAP}{{0,8}}(?:获取|领取|即可|可查|查看|下载)",
    ),
)
PLEAS = (
    (
        "公众号 公众平台 公号 微信 订阅号 服务号 视频号",
        rf"(?:请|欢迎|敬请|记得|赶紧|快来|赶快|马上|立即|点击|长按|可以?|大家|顺便|喜欢|更多|想){_GAP}{{0,20}}"
        rf"(?:关注|订阅|添加|搜索|搜){_GAP}{{0,20}}(?:公众号|公号|公众平台|微信号|订阅号|服务号|视频号|官方微信|微信平台)",
    ),
    (
        "公众号 公众平台 公号 微信 订阅号",
        rf"^\W*(?:关注|搜索|订阅|添加){_GAP}{{0,25}}(?:公众号|公号|公众平台|订阅号|官方微信|微信号)",
    ),
    (
        "二维码",
        rf"(?:长按|扫描|扫一扫|识别|扫){_GAP}{{0,14}}二维码{_GAP}{{0,16}}(?:关注|订阅|加[我好群入]|添加|查看|下载|进入|咨询|报名|了解|获取|领取|入群|进群|识别|更多|↓)",
    ),
    ("长按", rf"长按{_GAP}{{0,12}}(?:关注|指纹|识别){_GAP}{{0,12}}(?:关注|二维码|添加|搜索|我们)"),
    ("扫码 扫一扫", r"(?:扫码|扫一扫)(?:关注|加群|进群|入群|领取|下载|添加|订阅|加微信|分享)"),
    ("蓝字 蓝色字 阅读原文", rf"(?:点击|戳|请点|轻点){_GAP}{{0,8}}(?:蓝字|蓝色字|[“「]?阅读原文)|^\W*阅读原文\W*$"),
    ("点击", rf"点击{_GAP}{{0,16}}(?:免费)?(?:关注|订阅)(?:我们|哦|哟|吧|[，,！!~～]|$)"),
    ("星标", r"(?:公众号|小编)?(?:设为|加)星标"),
    ("公众号", rf"点击{_GAP}{{0,12}}公众号"),
    (
        "点赞 点个赞 转发 收藏 留言 投币 打赏",
        rf"(?:欢迎|请(?!求)|记得|别忘|喜欢|觉得|顺便|感谢|麻烦){_GAP}{{0,24}}(?:{_ACT}[，、,+\s和并加或与&/]{{0,2}}(?:{_ACT}|关注)|关注[，、,+\s和并加或与&/]{{0,2}}{_ACT})",
    ),
    (
        "点赞 点个赞 转发 在看",
        rf"(?:觉得|喜欢){_GAP}{{0,16}}(?:请(?!求)|记得|欢迎|不妨|点个){_GAP}{{0,8}}(?:点赞|点?个赞|转发|“在看”)",
    ),
    ("朋友圈 好友 微信群", r"(?:请|记得|欢迎|快)(?:转发|分享)(?:到|给|至)(?:您的?|你的?)?(?:朋友圈|微信群|好友)"),
    (
        "APP App app 客户端",
        rf"(?:请|欢迎|立即|免费|扫码|点击|^\W*)下载{_GAP}{{0,14}}(?:APP|App|app|客户端)(?:[，,！!。\s]|$|{_GAP}{{0,10}}(?:免费|领取|抢先|更多|精彩|独家))",
    ),
    (
        "多精彩",
        rf"更多精彩(?:内容|资讯|文章|热文|视频|新闻)?(?:[：:>]|$|[，,]?{_GAP}{{0,12}}(?:请|点击|关注|登录|戳|尽在|访问|进入|下载|↓))",
    ),
    (
        "热线 电话",
        rf"(?:拨打|致电){_GAP}{{0,6}}(?:新闻|爆料|报料|咨询|客服|预约|报名|订购)(?:热线|电话)[：:]?\s*[0-9]{{3}}",
    ),
    ("微信 QQ qq", rf"欢迎{_GAP}{{0,14}}(?:加入|添加|加){_GAP}{{0,10}}(?:微信|QQ|qq)群?"),
)
# Of anchors that ordinary text holds: words one of which stands in whatever their patterns match. They are looked for
# first, because these patterns begin with many alternatives and are the slowest.
NEEDED = {
    "电话": "： : 拨打 致电",
    "声明": "本文 以上 该文 文章 本站 本网 图片 转载 凡 本公众号",
    "微信": "： : 加 关注 订阅 搜 欢迎",
    "APP": "下载",
    "App": "下载",
    "app": "下载",
    "客户端": "下载",
}
_STORY = re.compile(
    r"记者|警方|民警|诈骗|被骗|骗子|受害|嫌疑|市民|网友|群众|村民|居民|用户|学生|[他她]|表示|介绍|称[，,：:“]|[据某]|男子|女士|先生|法院|要求|"
    r"[后时]，|了(?:一|该|这|多|其)|可能|例如|比如|不要|切勿|避免|为什么|功能|按钮|菜单|我们会"
)
_ORDINARY = (  # pairs within anchors that ordinary text holds
    "公众 阅读 客户 朋友 微信 本文 原标 责任 服务 视频 二维 网络 扫一 蓝色 订阅 分享 荣誉 免责 联网 互联 返回 步骤 图片 官方 "
    "al lt t+ ap AP Ap IC Re re es se er"
)
_LINE_ANCHORS = (
    "一篇 一页 一章 回首页 回目录 回列表 入收藏 为首页 关阅读 荐阅读 伸阅读 关新闻 关文章 门推荐 你喜欢 期精 期回 看更多 载更多 开全文 看全文 "
    "辑： 辑: 辑丨 辑| 责编 校对 审核 监制 审： 审: 供稿"
)
LINES = (
    r"(?:上一篇|下一篇|上一页|下一页|上一章|下一章|返回首页|返回目录|返回列表|加入收藏|设为首页)(?:[：:>»|\s].*)?",
    r"(?:相关阅读|推荐阅读|延伸阅读|相关新闻|相关文章|热门推荐|猜你喜欢|往期精彩|往期回顾|往期精选)[：:>».…]+.*",
    r"(?:热门推荐|猜你喜欢|往期精彩|往期回顾|往期精选|更多精彩|查看更多|加载更多|点击加载更多|展开全文|阅读原文|查看全文)\W*",
    r"[（(【\[]?(?:(?:来源|文字?|图片?|图文|作者|供稿|值班|流程|执行|本期|责任|网络)?(?:编辑|责编|校对|审核|编审|终审|监制|供稿|来源|美编|排版|统筹|策划)"
    r"\s*[:：丨|/]\s*[^\s，,。：:]{1,14}[\s,，;；|/]*){1,8}[）)】\]]?",
)
_LINE = re.compile(rf"[\s*_>#▲▼◆●■-]*(?:{'|'.join(LINES)})[\s*_]*")
_LEFT_OVER = " \t\u3000（）()【】[]，,。."  # U+3000 ideographic space
_SIGNS = ("://", "www.")  # one of them stands in every address
_ADDRESS = r"(?:https?://|www\.)[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+"
_URL = re.compile(_ADDRESS)
_URL_LINE = re.compile(
    rf"^[ \u3000]{{0,3}}(?:[-*•]\s?)?(?:(?:via|来源|链接|网址|地址|原文|参考|出处|原文链接|原文地址)[:：]?[ ]?)?<?{_ADDRESS}>?[ \t\u3000]*$",
    re.MULTILINE,
)
assert len("   - 原文链接: <https") <= HEAD  # what a line may hold before the sign of an address that it consists of


class AdvertsCleaner:
    """The step `adverts`. `edits` kinds: advert_line, advert_sentence, advert_phrase, url_line, url."""

    def __init__(self, step: steps.Adverts) -> None:
        self._longest = step.max_line_chars
        self._urls = step.urls
        own = tuple((phrase, re.escape(phrase)) for phrase in step.phrases if phrase)
        self._phrases = _by_anchor(PHRASES)
        self._formulas = _by_anchor(FORMULAS + own)
        self._pleas = _by_anchor(PLEAS)
        anchors = {*self._phrases, *self._formulas, *self._pleas, *_LINE_ANCHORS.split()}
        tables = (self._phrases, self._formulas, self._pleas)
        self._of_sentences = {*self._formulas, *self._pleas}
        self._patterns = {anchor: [table[anchor] for table in tables if anchor in table] for anchor in anchors}
        self._needed = {
            anchor: words.split() for anchor, words in NEEDED.items() if not any(phrase in anchor for phrase, _ in own)
        }
        self._anchors: dict[
            str, tuple[str, ...]
        ] = {}  # by their first two characters (the only one), longer ones first
        for anchor in sorted(anchors, key=lambda anchor: (-len(anchor), anchor)):
            self._anchors[anchor[:2]] = (*self._anchors.get(anchor[:2], ()), anchor)
        self._has_singles = any(len(anchor) == 1 for anchor in anchors)
        self._words = WordSearch(anchors, _SIGNS if self._urls == "lines" else ())
        pairs = {_rare_pair(anchor) for anchor in anchors if len(anchor) > 1}
        if self._urls != "keep":
            pairs |= {"//", "ww"}
        self.triggers = Triggers(
            chars=frozenset(anchor for anchor in anchors if len(anchor) == 1), pairs=frozenset(pairs)
        )

    def __call__(self, text: str, edits: Counter[str]) -> str:
        """The text without what advertises; the same object if nothing does."""
        places, with_signs = self._words.places(text)
        starts = self._lines_to_see(text, places, with_signs)
        if not starts:
            return text
        code: list[tuple[int, int]] | None = None
        number = position = 0
        parts: list[str] = []
        done: Counter[str] = Counter()  # in one line
        for start in starts:
            end = text.find("\n", start) + 1 or len(text)
            line = new = text[start:end]
            done.clear()
            of_line = _between(places, start, end)
            for _ in range(ROUNDS):  # what goes may bring two halves of an advert together
                old, new = new, self._cleaned(new, of_line, done)
                if not new or new == old:
                    break
                of_line, _ = self._words.places(new)
            if new == line:
                continue
            if code is None:  # looked for only now: few lines get as far
                code = code_spans(text, inline=False)
            while number < len(code) and code[number][1] <= start:
                number += 1
            if number < len(code) and code[number][0] <= start:
                continue
            parts += (text[position:start], new)
            position = end
            for kind, count in done.items():  # Counter.update is written in Python
                edits[kind] += count
        return "".join([*parts, text[position:]]) if position else text

    def _anchors_at(self, text: str, places: list[int]) -> list[tuple[int, str]]:
        """Where anchors stand and which, in order, without overlap: the longest of those at one of the places."""
        found: list[tuple[int, str]] = []
        position = 0
        for at in places:
            if at < position:
                continue
            anchors = self._anchors.get(text[at : at + 2], ())
            if self._has_singles:
                anchors = (*anchors, *self._anchors.get(text[at : at + 1], ()))
            for anchor in anchors:
                if text.startswith(anchor, at):
                    position = at + len(anchor)
                    found.append((at, anchor))
                    break
        return found

    def _lines_to_see(self, text: str, places: list[int], with_signs: list[int]) -> list[int]:
        """Where the lines begin in which a pattern may match, or which are an address.

        `places`: where anchors begin; `with_signs`: lines that begin as an address may.
        """
        starts: set[int] = set()
        seen = 0
        for at, anchor in self._anchors_at(text, places):
            if at < seen:
                continue
            start, end = text.rfind("\n", 0, at) + 1, text.find("\n", at)
            end = len(text) if end < 0 else end
            if self._may_match(text, start, end, at, anchor):
                starts.add(start)
                seen = end
        starts.update([start for start in with_signs if _URL_LINE.match(text, start)])
        if self._urls == "remove":
            for sign in _SIGNS:
                at = text.find(sign)
                while at >= 0:
                    start, end = text.rfind("\n", 0, at) + 1, text.find("\n", at)
                    end = len(text) if end < 0 else end
                    if _URL.search(text, start, end):
                        starts.add(start)
                    at = text.find(sign, end)
        return sorted(starts)

    def _may_match(self, text: str, start: int, end: int, at: int, anchor: str) -> bool:
        """A first look around an anchor; the second, in whole sentences, is exact."""
        if end - start <= self._longest and (
            _LINE.fullmatch(text, start, end) or (anchor in ("原标题", "阅读原文") and start == at)
        ):
            return True
        patterns = self._patterns[anchor]
        if not patterns:
            return False
        window = text[max(start, at - 64) : min(end, at + 64)]
        if anchor in self._needed and _has_none(window, self._needed[anchor]):
            return False
        for pattern in patterns:  # noqa: SIM110 - a generator costs as much as the search
            if pattern.search(window):
                return True
        return False

    def _cleaned(self, line: str, places: list[int], edits: Counter[str]) -> str:
        """The line, with its line end, as it stays; "" if it goes. `places`: where anchors may begin."""
        body = line.rstrip("\n")
        line_end = line[len(body) :]
        if self._urls == "lines" and _URL_LINE.match(body):
            edits["url_line"] += 1
            return ""
        if self._urls == "remove":
            body, count = _URL.subn("", body)
            if count:
                edits["url"] += count
                places, _ = self._words.places(body)
        stays: str | None = body
        found = {anchor for _, anchor in self._anchors_at(body, places)}
        if found:
            stays = self._without_adverts(body, places, found, edits)
        return "" if stays is None else stays + line_end

    def _without_adverts(self, body: str, places: list[int], found: set[str], edits: Counter[str]) -> str | None:
        short = len(body) <= self._longest
        if short and _LINE.fullmatch(body):
            edits["advert_line"] += 1
            return None
        bare = body
        for anchor, pattern in self._phrases.items():  # in their order: a set's would differ from run to run
            if anchor in found:
                bare = pattern.sub("", bare)
        if bare != body:
            edits["advert_phrase"] += 1
            if not bare.strip(_LEFT_OVER) or (short and "原标题" in body and "原标题" not in bare):
                return None
            places, _ = self._words.places(bare)
            found = {anchor for _, anchor in self._anchors_at(bare, places)}
        if found.isdisjoint(self._of_sentences):
            return bare
        written = _WRITTEN_LINE_END.split(bare) if "\\n" in bare else [bare]
        sentences = [sentence for part in written for sentence in split_sentences(part)]
        stay = self._that_stay(sentences, places)
        if len(stay) == len(sentences):
            return bare
        if short or not stay:
            edits["advert_line"] += 1
            return None
        edits["advert_sentence"] += len(sentences) - len(stay)
        return "".join(stay)

    def _that_stay(self, sentences: list[str], places: list[int]) -> list[str]:
        """The sentences without those that advertise; `places` in all of them together, where anchors may begin."""
        stay: list[str] = []
        end = 0
        for sentence in sentences:
            start, end = end, end + len(sentence)
            of_sentence = _between(places, start, end)
            if not of_sentence or not self._advertises(sentence, of_sentence):
                stay.append(sentence)
        return stay

    def _advertises(self, sentence: str, places: list[int]) -> bool:
        if len(sentence) > LONGEST_SENTENCE:
            return False
        told = False
        for _, anchor in self._anchors_at(sentence, places):
            if anchor in self._formulas and self._formulas[anchor].search(sentence):
                return True
            if anchor in self._pleas and not told and self._pleas[anchor].search(sentence):
                told = _STORY.search(sentence) is not None
                if not told:
                    return True
        return False


def _has_none(text: str, words: list[str]) -> bool:
    for word in words:  # noqa: SIM110 - as above
        if word in text:
            return False
    return True


def _between(places: list[int], start: int, end: int) -> list[int]:
    """The places from start up to end, counted from start."""
    return [at - start for at in places[bisect_left(places, start) : bisect_left(places, end)]]


def _rare_pair(anchor: str) -> str:
    """The pair of neighbours within an anchor that serves as trigger: the first that ordinary text seldom holds."""
    pairs = [anchor[at : at + 2] for at in range(len(anchor) - 1)]
    ordinary = _ORDINARY.split()
    return next((pair for pair in pairs if pair not in ordinary), pairs[0])


def _by_anchor(rules: tuple[tuple[str, str], ...]) -> dict[str, re.Pattern[str]]:
    """For each anchor the patterns that name it, or an anchor that it hides because that stands within it."""
    patterns: dict[str, list[str]] = {}
    for anchors, pattern in rules:
        for anchor in anchors.split():
            patterns.setdefault(anchor, []).append(pattern)
    known = dict.fromkeys(
        anchor for kind in (PHRASES, FORMULAS, PLEAS) for names, _ in kind for anchor in names.split()
    )
    for anchor in [*known, *_LINE_ANCHORS.split()]:
        hidden = [pattern for within, found in patterns.items() if within in anchor for pattern in found]
        if hidden and anchor not in patterns:
            patterns[anchor] = hidden
        elif hidden:
            patterns[anchor] = list(dict.fromkeys(patterns[anchor] + hidden))
    return {anchor: re.compile("|".join(found), re.MULTILINE) for anchor, found in patterns.items()}
